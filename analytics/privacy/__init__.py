"""Forgetting people: the eraser, what it writes, its receipts and their proof."""
