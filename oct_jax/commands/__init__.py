"""The application: what a person types, its settings, and what is printed."""
