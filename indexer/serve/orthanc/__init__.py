"""A plugin for the PACS Orthanc; its file is read by Orthanc, and imports nothing of this package."""
