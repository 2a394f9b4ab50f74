"""Pages about an evaluation, and about two compared: each is one HTML file that needs no other."""
