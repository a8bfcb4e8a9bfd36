"""A sign-in at a provider, from the command line."""
