"""The reviewer's sheet: checklists and cards, filled from a run's own files."""
