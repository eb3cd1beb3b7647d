"""How dense the pool is around each row: count it (count.py), and tell people of it (told.py)."""
