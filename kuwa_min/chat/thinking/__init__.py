"""What models think before they answer: told from the answer, hidden or shown, left out later."""
