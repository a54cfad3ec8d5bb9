"""The bundled encoder without Python's torch, for one query from a shell: the same bits a second earlier."""
