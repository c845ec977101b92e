"""What several families have in common: names of tensors, and the JSON files beside them, by library and by subject."""
