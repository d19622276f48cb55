"""pytest hooks: translation only."""
