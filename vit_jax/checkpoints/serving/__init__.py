"""Files that serve a model: a program with its parameters, which runs without the code that it was made by."""
