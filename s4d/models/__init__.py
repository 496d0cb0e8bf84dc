"""The networks: packed vision transformer, masked autoencoder, classifier with adapter experts, and their weights."""
