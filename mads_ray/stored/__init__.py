"""Read back what a run stored. What is torn or foreign is absent, or named, but never trusted."""
