"""What finished runs did: figures and numbers from the files of their run folders."""
