"""What the dashboard shows, as values already in words and pictures; the templates only lay it out."""
