"""From the feature map and the head to a heatmap; and whether it is faithful."""
