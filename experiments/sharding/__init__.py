"""How the network can be shared out over devices, compared."""
