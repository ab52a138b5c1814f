"""What the host itself offers to plugins."""
