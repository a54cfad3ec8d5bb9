"""Packs an archive on disk or on a DICOMweb server into WebDataset shards with de-identified metadata."""
