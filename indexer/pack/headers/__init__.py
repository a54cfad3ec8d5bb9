"""DICOM headers as pack treats them: the fields that become metadata, the elements that stay, the keyed hashes."""
