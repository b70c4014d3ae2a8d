"""What makes a dataset long-tailed: profiles, recipes, splits. No image and no Lightning here."""
