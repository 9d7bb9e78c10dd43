// Exchange the token behind the # of the address for a cookie; ask for a name where it is wanted.
const $ = (id) => document.getElementById(id);
const KEPT = "alprune-name";

// What is behind a # stays in the browser: it reaches no server, proxy or log.
const token = location.hash.slice(1);
history.replaceState(null, "", location.pathname);

async function join(name) {
  let response, content;
  try {
    response = await fetch("join", {
      method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify({token, name}),
    });
    content = await response.json();
  } catch {
    return say("alprune does not answer: was it stopped?");
  }
  if (!response.ok) return say(content.error);
  if (content.joined) {
    if (name) stored(() => localStorage.setItem(KEPT, name));
    return location.replace("./");
  }
  $("said").textContent = "";
  $("naming").hidden = false;
  // Not sent unasked: several people may use this browser.
  $("who").value ||= stored(() => localStorage.getItem(KEPT)) || "";
  $("who").select();
  $("who").focus();
}

// A browser may keep nothing.
function stored(work) {
  try { return work(); } catch { return null; }
}

function say(text) { $("said").textContent = text; }

$("naming").addEventListener("submit", (event) => {
  event.preventDefault();
  join($("who").value.trim());
});

if (token) join("");
else say("Open the address that alprune label prints in the terminal; it contains /join#. "
  + "The page does not open without it, nor after alprune label was started again.");
