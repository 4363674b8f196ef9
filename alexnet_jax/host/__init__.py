"""The machine below: its memory, files, pages and terminal."""
