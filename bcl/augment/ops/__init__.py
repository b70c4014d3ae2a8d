"""Augmentation ops of whole batches in plain PyTorch."""
