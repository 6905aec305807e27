"""What the HTML report is made of: its page, style, script, and the words of each language."""
