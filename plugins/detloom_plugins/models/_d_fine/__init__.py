"""What D-FINE and DEIMv2 share: sides of boxes as distributions, their loss, HGNetV2."""
