const THINGS = '[data-item],[data-pick],[data-user],[data-visitor],[data-surprise],[data-add],[data-close],[data-clear],[data-undo],[data-reset],[data-shut],[data-photo]';
const SMALL = 448; // px: a photo is made this small before it leaves the browser
const shared = (window.recsysDemo ??= {waiting: [], count: 0, sent: 0, heard: 0, patience: 5000}); // ms until what was not answered is told again
// Clicks are numbered and told in order, one message at a time: none is lost, none is taken twice, no older answer comes after a newer one.
shared.send ??= (click) => {
  const last = shared.waiting.at(-1);
  if (click.adjust && last?.adjust && last.n > shared.sent) shared.waiting.pop(); // the form tells all of itself each time
  shared.waiting.push({n: ++shared.count, ...click});
  shared.tell();
};
shared.tell ??= (missed = false) => {
  if (shared.later || !(missed || shared.waiting.length)) return;
  shared.later = setTimeout(() => { shared.later = null; shared.tell(); }, shared.patience);
  shared.sent = shared.count;
  shared.mouth({clicks: [...shared.waiting], missed});
};
shared.answered ??= (heard) => {
  const late = heard < shared.heard; // an answer that was given up: what it drew is old
  shared.heard = Math.max(shared.heard, heard);
  shared.waiting = shared.waiting.filter((click) => click.n > shared.heard);
  clearTimeout(shared.later);
  shared.later = null;
  shared.tell(late);
};
const at = (target) => { const found = target.closest(THINGS); return found && element.contains(found) ? found : null; };
const key = (thing) => JSON.stringify({...thing.dataset});
const asItWas = (form) => {
  for (const range of form.querySelectorAll('[data-usual]')) range.nextElementSibling.value = range.value = range.dataset.usual;
  form.elements.compare.value = '';
  form.elements.fresh.checked = false;
  delete form.dataset.changed;
};
const say = (target) => {
  const thing = at(target);
  if (!thing) return false;
  shared.last = key(thing);
  if (thing.dataset.reset) asItWas(thing.form);
  if (thing.dataset.item && !element.closest('#detail')) shared.opener = thing;
  shared.send({...thing.dataset});
  return true;
};
const form = (target) => Object.fromEntries(new FormData(target));

element.addEventListener('click', (event) => say(event.target));
element.addEventListener('keydown', (event) => {
  if ((event.key === 'Enter' || event.key === ' ') && event.target.getAttribute('role') === 'button' && say(event.target)) event.preventDefault();
  if (event.key === 'Escape' && element.querySelector('[data-close],[data-shut]')) say(element.querySelector('[data-close],[data-shut]'));
});
element.addEventListener('submit', (event) => {
  event.preventDefault();
  if (event.target.dataset.form !== 'adjust') shared.send(form(event.target));
});
element.addEventListener('input', (event) => {
  const moved = event.target.closest('[data-form=adjust]');
  if (!moved) return;
  moved.dataset.changed = '';
  if (event.target.type === 'range') event.target.nextElementSibling.value = Number(event.target.value).toFixed(2);
  clearTimeout(shared.moved);
  shared.moved = setTimeout(() => shared.send({adjust: form(moved)}), 120);
});
element.addEventListener('change', async (event) => {
  if (event.target.type !== 'file' || !event.target.files.length) return;
  const [file] = event.target.files, waiting = event.target.closest('.photo');
  waiting.setAttribute('aria-busy', 'true');
  event.target.value = '';
  try {
    const image = await createImageBitmap(file);
    const scale = Math.min(1, SMALL / Math.max(image.width, image.height));
    const canvas = Object.assign(document.createElement('canvas'), {width: Math.max(1, image.width * scale), height: Math.max(1, image.height * scale)});
    const pen = canvas.getContext('2d');
    pen.fillStyle = '#fff';
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    shared.send({photo: canvas.toDataURL('image/jpeg', 0.85)});
  } catch {
    shared.send({photo: 'none'});
  }
});
if (element.closest('#heard')) shared.mouth = (said) => trigger('select', said);
element.addEventListener('error', (event) => { if (event.target.tagName === 'IMG') event.target.remove(); }, true);

watch('value', () => {
  if (element.closest('#heard')) return shared.answered(parseInt(element.textContent));
  if (element.closest('#results')) document.querySelector('.photo[aria-busy]')?.removeAttribute('aria-busy');
  const chosen = element.querySelector('.person.chosen'), row = chosen?.parentElement;
  if (row) row.scrollLeft = Math.max(0, chosen.offsetLeft - row.offsetLeft - row.clientWidth / 2 + chosen.clientWidth / 2); // in sight on a phone, too
  if (element.closest('#link')) return window.history.replaceState(null, '', element.textContent.trim() || window.location.pathname);
  if (element.closest('#detail') && element.querySelector('.detail')) {
    element.scrollIntoView({block: 'nearest'});
    element.querySelector('.close').focus({preventScroll: true});
  } else if (document.activeElement === document.body && shared.last) { // what had the focus was drawn anew
    const again = [...element.querySelectorAll(THINGS)].find((thing) => key(thing) === shared.last);
    if (again) again.focus({preventScroll: true});
    else if (element.closest('#detail') && shared.opener?.isConnected) shared.opener.focus({preventScroll: true});
  }
});
