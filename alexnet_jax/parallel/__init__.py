"""The mesh, what its devices exchange, and the processes of a run."""
