"""Pictures for people: surface renderings and before/after sheets."""
