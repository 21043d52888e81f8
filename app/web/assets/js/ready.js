// The last script of every page: what is clicked or entered before it would be lost, so controls wait for it.

document.getElementById("controls").disabled = false;
