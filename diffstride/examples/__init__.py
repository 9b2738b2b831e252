"""What the 2022 release called its examples: old commands and gin files run."""
