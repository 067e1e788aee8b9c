"""Pages and pictures for people."""

PICTURE_SIZE = 448
"""Short side in pixels at which photos are read for a page or a picture, unless a person says otherwise."""
