"""int8 image towers: quantised by NNCF on a sample of the user's images, kept beside the table, run by OpenVINO."""
