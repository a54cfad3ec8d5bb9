"""What is drawn from an archive before it is indexed: images for a trial, and for the calibration of int8."""
