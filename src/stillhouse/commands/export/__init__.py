"""`stillhouse export`: a student in another format, run after it was written and held beside what it was made from."""
