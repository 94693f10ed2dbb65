"""Where results go: JSON lines, videos, windows, functions; and how they are drawn."""
