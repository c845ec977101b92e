"""Other libraries' names for the parameters of our models: one module for each architecture in each library."""
