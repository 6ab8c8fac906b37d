"""The routes of each noun."""
