"""What RT-DETR and RT-DETRv2 share: sizes, the detector, the recipe."""
