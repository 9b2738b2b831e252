"""What `diffstride.train` is made of."""
