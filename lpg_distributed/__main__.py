"""`python -m lpg_distributed`, which is the command `lpg`."""

from lpg_distributed.launch import main

if __name__ == '__main__':
  main.main()
