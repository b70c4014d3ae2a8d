"""From a path to a batch: `Reader` (bytes), `ImageDataset` (pixels), `BatchLoader` (batches)."""
