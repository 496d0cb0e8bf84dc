"""Faces cut out of images and clips: where they are, how they are aligned, and the cropped media with their manifest.

Coordinates are continuous pixels everywhere: a frame covers 0..width and 0..height, the centre of its first pixel is
(0.5, 0.5). Left and right are those of the picture.
"""
