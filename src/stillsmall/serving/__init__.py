"""What goes out with a registered model."""
