"""Programs that run in processes of their own, and import nothing else of this package."""
