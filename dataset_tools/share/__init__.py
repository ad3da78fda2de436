"""A converted dataset to the Hub and back, its card, and the plain layouts of other tools."""
