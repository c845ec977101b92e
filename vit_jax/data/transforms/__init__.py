"""What happens to one training example on the host: one module per recipe, each with `build(image_size, **kwargs)`."""
