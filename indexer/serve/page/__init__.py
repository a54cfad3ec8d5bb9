"""The pages: templates, style sheet and scripts, and their routes."""
