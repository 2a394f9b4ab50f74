"""Several devices and processes: the mesh, what lies where, how processes find each other."""
