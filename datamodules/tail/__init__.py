"""What makes a data set long-tailed: profiles, recipes, splits. No images, no Lightning."""
