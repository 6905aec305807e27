"""4. Who learns of it: the result file, Markdown, the terminal."""
