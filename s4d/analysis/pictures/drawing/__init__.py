"""Draws what `pictures.npz` holds; nothing here needs the model."""
