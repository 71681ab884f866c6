"""Images to feature map to logits."""
