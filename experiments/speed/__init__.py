"""How fast the step is, and that what makes it fast changes nothing."""
