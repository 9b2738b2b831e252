"""From one model to another: learned strides, integer strides, constants."""
