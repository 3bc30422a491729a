// Owns what opens over the page: the sidebar on narrow screens and the dialogs.

const NARROW = matchMedia("(max-width: 760px)");

export class Drawer {
  constructor(panel, button) {
    this.panel = panel;
    this.button = button;
    button.addEventListener("click", () => this.set(!this.isOpen));
    document.addEventListener("keydown", (event) => event.key === "Escape" && this.dismiss());
    document.getElementById("shade").addEventListener("click", () => this.dismiss());
    NARROW.addEventListener("change", () => this.close());
    this.close();
  }

  get isOpen() {
    return document.body.classList.contains("drawer-open");
  }

  close() {
    this.set(false);
  }

  dismiss() {
    if (!this.isOpen) return;
    this.close();
    this.button.focus();
  }

  set(open) {
    document.body.classList.toggle("drawer-open", open);
    this.button.setAttribute("aria-expanded", String(open));
    // Out of sight is out of the tab order.
    this.panel.inert = NARROW.matches && !open;
    if (open) this.panel.querySelector("button, a, input").focus();
  }
}

// Resolves to the form's data, or to null when the dialog was dismissed.
export function ask(dialog, values = {}) {
  const form = dialog.querySelector("form");
  for (const [name, value] of Object.entries(values)) form.elements[name].value = value;
  dialog.returnValue = "";
  dialog.showModal();
  dialog.querySelector("input")?.select();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok" ? new FormData(form) : null), { once: true });
  });
}
